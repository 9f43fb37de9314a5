"""Pictures of an explanation, as SVG: their colours are classes that the page, or the picture itself, defines."""
