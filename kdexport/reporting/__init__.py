"""What people read: the report document as a page, a terminal table and a spreadsheet. No figure is made here."""
