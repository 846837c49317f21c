"""What only the book's chapters need: recorded numbers and one style for every figure.

The chapters import this package; nothing else in normprop does.
"""
