"""Bundles over HTTP; needs the extra ``http``. `burnish_serve.http.server.run` serves until it is asked to end."""
