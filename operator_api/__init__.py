"""The API for people and their scripts: what the admin does, over REST, under named keys with scopes."""
