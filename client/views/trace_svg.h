// Draws the maps of a trace as one SVG picture.
#ifndef KASCADE_CLIENT_VIEWS_TRACE_SVG_H_
#define KASCADE_CLIENT_VIEWS_TRACE_SVG_H_

#include <string>

#include "client/views/trace_view.h"

namespace kascade::client {

// A panel for each layer (from top to bottom) and KV head (from left to right). Rows of a panel are
// query tiles, columns are key tiles; attended tiles are coloured by their share of the row's
// attention mass, ignored ones are grey.
std::string trace_svg(const TraceRun& run);

}  // namespace kascade::client

#endif  // KASCADE_CLIENT_VIEWS_TRACE_SVG_H_
