"""A moved, incomplete or outdated environment is recognized, and mended by `make install`."""

import shutil
import subprocess
import sys

import pytest

import environment
import lesson

PIN = "probe==1.0"


@pytest.fixture
def venv(tmp_path):
    """A small environment with one package and this checkout's slimcnn."""
    folder = tmp_path / "checkout" / ".venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    site = next(folder.glob("lib/python*/site-packages"))
    (site / "probe.py").write_text("")
    info = site / "probe-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: probe\nVersion: 1.0\n")
    (info / "RECORD").write_text("probe.py,,\nprobe-1.0.dist-info/METADATA,,\n")
    (site / "checkout.pth").write_text(f"{lesson.ROOT / 'utils'}\n")
    return folder


def problems(venv, tmp_path, pins=PIN):
    """What the environment's own Python says about it."""
    requirements = tmp_path / "requirements.txt"
    requirements.write_text(f"# pins\n{pins}\n")
    code = (
        "import sys, pathlib; sys.path.insert(0, sys.argv[1]); import environment;"
        "print(*environment.problems(*map(pathlib.Path, sys.argv[2:])), sep='\\n')"
    )
    command = [venv / "bin" / "python", "-c", code, lesson.ROOT / "scripts", venv, requirements]
    return subprocess.run(command, text=True, capture_output=True, check=True).stdout.strip()


def site(venv):
    return next(venv.glob("lib/python*/site-packages"))


def test_a_whole_environment_has_no_problem(venv, tmp_path):
    assert problems(venv, tmp_path) == ""


def test_what_is_wrong_is_named(venv, tmp_path):
    assert problems(venv, tmp_path, "probe==2.0") == "probe is 1.0, pinned is 2.0"
    assert problems(venv, tmp_path, "other==2.0") == "other 2.0 is not installed"
    (site(venv) / "probe.py").unlink()
    assert problems(venv, tmp_path) == "probe 1.0 lacks probe.py"
    (site(venv) / "checkout.pth").unlink()
    assert "slimcnn is not installed from this checkout" in problems(venv, tmp_path)


def test_a_package_whose_installation_was_stopped_is_forgotten(venv, tmp_path):
    record = site(venv) / "probe-1.0.dist-info" / "RECORD"
    command = [
        venv / "bin" / "python",
        lesson.ROOT / "scripts" / "environment.py",
        venv,
        "--forget",
    ]
    forget = lambda: subprocess.run(command, text=True, capture_output=True, check=True).stdout  # noqa: E731
    assert forget() == "\n"
    record.unlink()
    assert problems(venv, tmp_path) == "probe 1.0 lacks its list of files"
    assert forget() == "probe-1.0\n"
    assert problems(venv, tmp_path) == "probe 1.0 is not installed"


def test_a_moved_environment_is_recognized(venv, tmp_path):
    script = venv / "bin" / "jupyter-book"
    script.write_text(f"#!{venv}/bin/python\n")
    assert problems(venv, tmp_path) == ""
    moved = shutil.move(venv.parent, tmp_path / "elsewhere")
    venv = moved / ".venv"
    assert "was moved or copied" in problems(venv, tmp_path)


def test_this_environment_is_whole():
    assert environment.problems(lesson.Path(sys.prefix), lesson.ROOT / "requirements.txt") == []
