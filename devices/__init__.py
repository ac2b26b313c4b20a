"""Device profiles and guides, one of each a device."""
