"""The commands, one a file. Each has ``app_command(cli)``, imports no torch at the top, and is thin."""
