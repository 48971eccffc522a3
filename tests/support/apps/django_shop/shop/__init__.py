"""A shop: categories, products, customers, orders."""
