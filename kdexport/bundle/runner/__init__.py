"""What runs on a device. These files are copied verbatim into every bundle: they import nothing of kdexport, parse
under Python 3.8, and find each other both as this package and as plain files in one folder."""
