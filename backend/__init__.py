"""The service of Skylight: Label Studio's protocol, the queue, the store and the pages."""
