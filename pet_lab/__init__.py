"""pet_lab: an experiment workbench for privacy-enhancing technologies."""
