"""The command, also as `python -m converters`."""

from __future__ import annotations

from edge_vqa.start import end_on_interrupt


def main() -> None:
    end_on_interrupt()
    from converters.cli import main

    main()


if __name__ == "__main__":
    main()
