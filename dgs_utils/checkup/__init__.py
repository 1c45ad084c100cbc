"""The check-up of a pool: copies, what it covers, how many different images it has, and how many to generate."""
