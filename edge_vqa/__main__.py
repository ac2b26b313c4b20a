"""The command, also as `python -m edge_vqa`."""

from __future__ import annotations

from edge_vqa.start import end_on_interrupt


def main() -> None:
    end_on_interrupt()
    from edge_vqa.cli import main

    main()


if __name__ == "__main__":
    main()
