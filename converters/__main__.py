"""`python -m converters`"""

from converters.cli import main

main()
