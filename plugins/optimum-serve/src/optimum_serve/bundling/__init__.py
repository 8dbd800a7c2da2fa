"""Bundles: one archive that serves models where there is no package index.

The verb is in `command`; the archive holds what the other modules give:

    archive     the archive itself: models, wheels, start script, licences, checksums
    wheels      wheels of all that a server of these models needs
    licences    the licences of wheels, from their metadata
    start.sh    installs what is in the archive, once, and starts the server
    check.py    compares the files with their checksums
"""
