"""What several tests share: data sets, processes, servers, models made on the spot."""
