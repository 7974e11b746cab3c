"""Training pairs beside OpenPics' own: icons with their names, WordNet's glosses; which concept a row is about."""
