"""The documentation site: pages that are made of the code while mkdocs builds (`mkdocs.yml`)."""
