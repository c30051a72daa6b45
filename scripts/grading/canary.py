"""Cells that must fail, run after every graded cell that passed.

Student code can change how a kernel reports errors, and then wrong answers look right. Each canary
is the source of a cell that ends in an error whose text contains the word NONCE, which is replaced
by a random one; where that error does not come out, the submission is refused.
"""

import secrets

# A wrong function, which the book's checks must refuse, if the notebook uses them at all.
_CHECK = """\
import sys
if "slimcnn.checks" in sys.modules:
    import torch
    from slimcnn.checks import check
    check(lambda x: x + 1, lambda x: x, [(torch.zeros(2),)], explain=lambda *_: "NONCE").require()
else:
    raise RuntimeError("NONCE")"""

CANARIES: list[str] = ['assert False, "NONCE"', 'raise RuntimeError("NONCE")', _CHECK]

HIDDEN = (
    "errors do not come out of this notebook: cells that must fail seem to pass. Code in it changes"
    " how the kernel reports errors (showtraceback, an error handler, a patched check). Remove it"
    " and hand in again"
)


def planted() -> list[tuple[str, str]]:
    """The canaries, each with a fresh nonce."""
    pairs = []
    for source in CANARIES:
        nonce = secrets.token_hex(8)
        pairs.append((source.replace("NONCE", nonce), nonce))
    return pairs
