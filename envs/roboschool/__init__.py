"""The Roboschool robots on PyBullet: `registration` (ids), one file a robot family, `world` (Bullet), `camera`."""
