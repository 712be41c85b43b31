"""Other routers' rules, each written anew from its published formula; they share the router's Policy protocol."""
