"""Catalogs, schemas, data files, commits: the only importer of PyIceberg."""
