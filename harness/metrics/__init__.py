"""The only place where pixels become counts, and counts become numbers with their uncertainty."""
