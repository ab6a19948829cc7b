-- Its sessions stay, without a widget.
DELETE FROM widgets
WHERE tenant_id = (SELECT tertulia_tenant_id()) AND id = $1
