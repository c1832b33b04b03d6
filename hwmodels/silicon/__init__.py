"""What a core is made of and what it uses: costs of gates, memories and wires, structures, energy and area."""
