"""A page to see the service work: GET /, static files, and what they ask besides the service's own routes."""
