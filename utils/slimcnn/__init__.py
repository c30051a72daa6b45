"""Slim CNNs: the techniques of the course book, one module a concept.

Import the modules themselves (``from slimcnn import data, models``); importing the
package downloads, prints and trains nothing.
"""

__version__ = "0.1.0"
