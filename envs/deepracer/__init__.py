"""DeepRacer: tracks, cars, cameras, LIDAR, objects and race rules, batched over cars; Gymnasium is all it shows."""
