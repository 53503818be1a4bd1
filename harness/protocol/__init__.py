"""What can move a number, as data: settings, words, their lint."""
