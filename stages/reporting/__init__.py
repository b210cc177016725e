"""What does the report show, and how is it drawn?

`results` reads what the students reached, `measures` says how sure that is, `made` where a report comes from and what
earlier ones found; `report_data` gathers what is told. `findings` says what stands out, `sections` and `background`
tell the rest, `figures` and `gallery` show it. `page` puts it into the template beside it; `contact_sheet` is pictures
on one sheet.
"""
