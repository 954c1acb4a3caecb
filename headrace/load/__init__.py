"""`headrace load`: walk a mount, read what is not cached, show how far it is."""
