"""The `edge-vqa` command: parses, prints, exits; no logic. In: arguments; out: text and an exit status.

One file a group of commands; `app.py` puts them together, `options.py` holds what several of them take. Open first: `ask.py`.
"""

from typing import NoReturn


def main() -> NoReturn:
    from edge_vqa.border import program
    from edge_vqa.cli.app import app

    program.run(app, "edge-vqa")
