"""The verbs of `Atlas` over HTTP: one table of verbs (`verbs`), the application (`app`), the server (`serving`)."""
