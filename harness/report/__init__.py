"""From finished runs to pages: leaderboard, pictures, reported values, regression."""
