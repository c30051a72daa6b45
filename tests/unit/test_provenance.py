"""slimcnn.provenance: what a record says about where it comes from."""

import os
import platform
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import torch

import slimcnn
from slimcnn import provenance as module
from slimcnn.provenance import provenance


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A checkout with one commit, and the commit's name."""
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "A")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "a@example.org")

    def git(*arguments):
        run = subprocess.run(
            ["git", "-C", str(tmp_path), *arguments], check=True, capture_output=True, text=True
        )
        return run.stdout.strip()

    git("init", "--quiet")
    for name in ("utils/code.py", "results/some.json", "requirements.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("1\n")
    git("add", ".")
    git("commit", "--quiet", "--no-gpg-sign", "-m", "first")
    return tmp_path, git("rev-parse", "HEAD")


def test_commit(repository):
    root, commit = repository
    assert len(commit) == 40
    assert module._commit(root) == commit
    (root / "results" / "some.json").write_text("2\n")  # what a sweep writes is not code
    (root / "notes.md").write_text("new\n")
    assert module._commit(root) == commit
    (root / "utils" / "code.py").write_text("2\n")
    assert module._commit(root) == commit + "+dirty"


def test_a_new_file_of_code_is_dirty_too(repository):
    root, commit = repository
    (root / "utils" / "new.py").write_text("1\n")
    assert module._commit(root) == commit + "+dirty"


def test_another_repository_of_the_caller_is_not_ours(repository, monkeypatch):
    root, commit = repository
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    assert module._commit(root) == commit


def test_no_commit_without_a_checkout_or_without_git(repository, tmp_path, monkeypatch):
    root, _ = repository
    assert module._commit(root / "utils") is None
    monkeypatch.setenv("PATH", "")
    assert module._commit(root) is None


def test_no_commit_in_a_broken_repository(repository):
    root, _ = repository
    shutil.rmtree(root / ".git" / "refs")
    assert module._commit(root) is None


@pytest.fixture
def asked_anew():
    """The commit of this process is asked for once; other tests may have done so."""
    module._commit_of_process.cache_clear()
    yield
    module._commit_of_process.cache_clear()


def test_all_of_it(monkeypatch, asked_anew):
    monkeypatch.setattr(module, "_commit", lambda root: "c" * 40)
    made = provenance("make results")
    assert made["command"] == "make results"
    assert made["commit"] == "c" * 40
    assert made["versions"] == {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "slimcnn": slimcnn.__version__,
    }
    assert type(made["versions"]["torch"]) is str
    assert made["hardware"] == {
        "cpu": module.cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
    date = datetime.fromisoformat(made["date"])
    assert timedelta(0) <= datetime.now(UTC) - date < timedelta(minutes=1)
    assert made["date"].endswith("+00:00")


ROOT = module.checkout()


@pytest.mark.parametrize(
    ("argv", "command"),
    [
        (["scripts/prune.py", "--seed", "0"], "python scripts/prune.py --seed 0"),
        ([str(ROOT / "scripts" / "prune.py")], "python scripts/prune.py"),
        (["a.py", f"--out={ROOT}/results/a.json"], "python a.py --out=results/a.json"),
        (["a.py", "--out=/home/me/a b.json"], "python a.py '--out=a b.json'"),
        (["/usr/bin/slim", "/home/me/x"], "slim x"),
        (["a.py", "--lr=0.1", "a=b=c"], "python a.py --lr=0.1 a=b=c"),
        (["/site-packages/ipykernel_launcher.py", "-f", "/run/kernel-1.json"], "notebook"),
        (["-c"], "python (interactive)"),
        ([""], "python (interactive)"),
        ([], "python (interactive)"),
    ],
)
def test_the_command_line_without_paths_of_this_machine(monkeypatch, argv, command):
    monkeypatch.setattr(sys, "argv", argv)
    assert module._command_line() == command


def test_cpu_name(monkeypatch):
    def read(text):
        monkeypatch.setattr(Path, "read_text", lambda *_, **__: text)
        return module.cpu_name.__wrapped__()

    assert read("processor : 0\nmodel name\t: Some  CPU @ 2 GHz\nmodel name\t: Other\n") == (
        "Some CPU @ 2 GHz"
    )
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert read("model name : \nprocessor : 0\n") == "aarch64"

    def missing(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)
    assert module.cpu_name.__wrapped__() == "aarch64"
    monkeypatch.setattr(platform, "machine", lambda: "")
    assert module.cpu_name.__wrapped__() == "unknown"


def test_the_commit_is_that_of_the_start_of_the_process(monkeypatch):
    module._commit_of_process.cache_clear()
    commits = iter(["a" * 40, "b" * 40])
    monkeypatch.setattr(module, "_commit", lambda root: next(commits))
    assert module.provenance()["commit"] == module.provenance()["commit"] == "a" * 40
    module._commit_of_process.cache_clear()
