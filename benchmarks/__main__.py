"""Prints every comparison as a row of a Markdown table."""

from benchmarks import codec, port
from benchmarks.timing import HEADER

if __name__ == "__main__":
    print(HEADER)
    for part in (codec, port):
        for comparison in part.comparisons():
            print(comparison.line(), flush=True)
