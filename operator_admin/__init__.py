"""What the admin of every app is made of. The admin's theme, django-unfold, is imported here and nowhere else."""
