"""The operator console: screens for signed-in staff, in the theme of the admin, above the records that it edits."""
