"""Wire formats of providers: hub request in, hub events out; pure."""
