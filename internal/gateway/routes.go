package gateway

// routes registers everything that is served: a method for each subject, in its file.
func (s *Server) routes() {
	s.systemRoutes()
	s.docsRoutes()
	s.metricsRoutes()
	s.leaseRoutes()
	s.sandboxRoutes()
	s.eventRoutes()
	s.streamRoutes()
	s.envRoutes()
	s.portRoutes()
	s.networkRoutes()
	s.secretRoutes()
	s.savedRoutes()
	s.imageRoutes()
	s.mcpRoutes()
}
