"""`python -m edge_vqa`"""

from edge_vqa.cli import main

if __name__ == "__main__":
    main()
