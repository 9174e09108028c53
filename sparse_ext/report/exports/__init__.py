"""Files of other people's formats, made of a record: SPDX 3.0.1, the EU AI Act's Annex XI, and stages for zeus' Perseus."""
