"""Which files run beside the program that they are for, and what is looked at: one module for each
program."""
