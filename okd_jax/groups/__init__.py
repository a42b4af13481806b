"""Groups of peers: networks or branches on a mesh of devices."""
