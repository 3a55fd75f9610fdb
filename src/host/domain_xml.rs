//! domain_xml
