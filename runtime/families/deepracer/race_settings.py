"""Settings of a DeepRacer race: its kind, starts, penalties, obstacles and bot cars."""

from __future__ import annotations

from runtime.settings.types import Setting

# A DeepRacer race, under the names of the simulator's job files.
RACE: dict[str, Setting] = {
    "race_type": Setting(
        "text", "Kind of race.", choices=("TIME_TRIAL", "OBJECT_AVOIDANCE", "HEAD_TO_BOT", "HEAD_TO_MODEL", "F1")
    ),
    "reverse_dir": Setting("bool", "Drive the track in the opposite direction."),
    "alternate_driving_direction": Setting("bool", "Change the driving direction after each episode."),
    "change_start_position": Setting("bool", "Start each episode farther along the track."),
    "round_robin_advance_dist": Setting("float", "Lap share between successive starts.", low=0),
    "start_position_offset": Setting("float", "Position of the first start, as a share of the lap.", low=0),
    "number_of_resets": Setting("int", "How often a car may continue after a failure.", low=0),
    "off_track_penalty": Setting("float", "Seconds that a car stands after leaving the track.", low=0),
    "collision_penalty": Setting("float", "Seconds that a car stands after a crash.", low=0),
    "penalty_seconds": Setting("float", "Seconds that a bot car stands after it was hit.", low=0),
    "is_continuous": Setting("bool", "Drive several laps in one episode."),
    "number_of_obstacles": Setting("int", "Number of boxes on the track.", low=0, high=100),
    "min_distance_between_obstacles": Setting("float", "Meters from the start to the first obstacle.", low=0),
    "randomize_obstacle_locations": Setting("bool", "Place obstacles at random in each episode."),
    "is_obstacle_bot_car": Setting("bool", "Use parked cars as obstacles instead of boxes."),
    "object_positions": Setting("any", "Share of the lap and lane of each object."),
    "number_of_bot_cars": Setting("int", "Number of bot cars, which drive by themselves.", low=0, high=100),
    "bot_car_speed": Setting("float", "Speed of bot cars in m/s.", low=0),
    "is_lane_change": Setting("bool", "Let bot cars change lanes."),
    "lower_lane_change_time": Setting("float", "Least time between lane changes, in seconds.", low=0),
    "upper_lane_change_time": Setting("float", "Longest time between lane changes, in seconds.", low=0),
    "lane_change_distance": Setting("float", "Length of a lane change in meters.", low=0),
    "min_distance_between_bot_cars": Setting("float", "Meters from the start to the first bot car.", low=0),
    "randomize_bot_car_locations": Setting("bool", "Place bot cars at random in each episode."),
    "enable_domain_randomization": Setting("bool", "Randomize light, colors and noise in each episode."),
    "randomize": Setting("any", "Randomize camera, light and motion: none, sim2real, or {light: 0.4, …}."),
    "dynamics": Setting("any", "How the car responds: gazebo, gazebo-6, kinematic, real, or {latency_s: 0.1, …}."),
}

# What else an evaluation of a DeepRacer policy takes.
RACE_EVALUATION: dict[str, Setting] = {
    **RACE,
    "track": Setting("text", "DeepRacer: a built-in track, a file, or its name in tracks."),
    "tracks": Setting("text", "DeepRacer: folder of track files."),
    "number_of_trials": Setting("int", "DeepRacer: laps to drive.", low=0, above=True, high=10_000),
    "against": Setting("text", "DeepRacer: another model that races on the same track."),
    "params": Setting("text", "DeepRacer: an evaluation_params.yaml; explicit settings override it."),
}
