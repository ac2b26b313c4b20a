"""`python -m edge_vqa`"""

from edge_vqa.cli import main

main()
