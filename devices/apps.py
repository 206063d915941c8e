from django.apps import AppConfig


class DevicesConfig(AppConfig):
    """The registry of devices: their public keys and their status."""

    name = "devices"
    label = "devices"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from audit.kinds import register_kind

        register_kind("device.enrolled", "Device {device} enrolled with suite {suite}")
        register_kind(
            "device.reenrolled", "Device {device} enrolled again with suite {suite}; its earlier keys are over"
        )
        register_kind(
            "device.keys_rotated", "Device {device} registered keys of version {version}; old ones until {overlap_ends}"
        )
        register_kind("device.key_rotation_demanded", "New keys demanded of device {device}: {reason}")
        register_kind("device.key_demand_withdrawn", "Demand for new keys of device {device} withdrawn: {reason}")
        register_kind("device.keys_due", "New keys are due of device {device}: it opens its session number {sessions}")
        register_kind("device.labelled", "Device {device} labelled {labels}")
        register_kind("device.suspended", "Device {device} suspended: {reason}")
        register_kind("device.resumed", "Device {device} resumed: {reason}")
        register_kind("device.revoked", "Device {device} revoked: {reason}")
