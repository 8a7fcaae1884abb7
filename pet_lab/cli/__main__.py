"""`python -m pet_lab.cli`."""

from pet_lab.cli import main

main()
