"""The service's own description: OpenAPI 3.1 at /openapi.json, one module for each family of routes, and a page."""
