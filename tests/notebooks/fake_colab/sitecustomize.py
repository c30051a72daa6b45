"""Makes a Python look like Colab's to a lesson: google.colab is loaded when its kernel starts."""

import sys
import types

sys.modules["google.colab"] = types.ModuleType("google.colab")
