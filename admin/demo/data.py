"""The demo's tables and rows: the same three tables for two tenants, filled differently."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

# IF NOT EXISTS, because a later run finds what the first one made.
TABLES: Final = (
    "CREATE TABLE IF NOT EXISTS customers (id int PRIMARY KEY, name text NOT NULL, city text)",
    "CREATE TABLE IF NOT EXISTS products (id int PRIMARY KEY, name text NOT NULL, "
    "price numeric(9, 2))",
    "CREATE TABLE IF NOT EXISTS orders (id int PRIMARY KEY, customer_id int REFERENCES customers, "
    "product_id int REFERENCES products, quantity int NOT NULL)",
)

INSERTS: Final = {
    "customers": "INSERT INTO customers VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
    "products": "INSERT INTO products VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
    "orders": "INSERT INTO orders VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING",
}

# The one query that every tenant is shown with.
QUESTION: Final = """\
SELECT c.name AS customer, count(*) AS orders, sum(o.quantity * p.price) AS total
FROM orders o JOIN customers c ON c.id = o.customer_id JOIN products p ON p.id = o.product_id
GROUP BY c.name ORDER BY total DESC, customer LIMIT 3"""

Rows = tuple[tuple[object, ...], ...]


@dataclass(frozen=True, slots=True)
class Shop:
    """One tenant's rows by table, in the order in which they can be inserted."""

    customers: Rows
    products: Rows
    orders: Rows

    def tables(self) -> dict[str, Rows]:
        """Table → rows."""
        return {"customers": self.customers, "products": self.products, "orders": self.orders}


ACME: Final = Shop(
    customers=(
        (1, "Road Runner Logistics", "Tucson"),
        (2, "Coyote Supply", "Flagstaff"),
        (3, "Mesa Outfitters", "Mesa"),
        (4, "Canyon Freight", "Page"),
    ),
    products=(
        (1, "Rocket skates", "349.00"),
        (2, "Anvil, 50 kg", "129.50"),
        (3, "Tunnel paint", "18.90"),
    ),
    orders=(
        (1, 2, 1, 3),
        (2, 2, 2, 8),
        (3, 2, 3, 40),
        (4, 1, 1, 1),
        (5, 3, 2, 2),
        (6, 3, 3, 12),
        (7, 4, 2, 4),
        (8, 1, 3, 5),
    ),
)

WIDGETCO: Final = Shop(
    customers=(
        (1, "Nordlicht GmbH", "Kiel"),
        (2, "Fjord Systems", "Bergen"),
        (3, "Havn & Co", "Aarhus"),
    ),
    products=((1, "Widget, small", "2.40"), (2, "Widget, large", "7.95"), (3, "Gasket", "0.35")),
    orders=(
        (1, 1, 2, 500),
        (2, 1, 3, 2000),
        (3, 2, 1, 1200),
        (4, 3, 2, 90),
        (5, 3, 1, 300),
        (6, 2, 3, 800),
    ),
)
